// The atlas: a map over range and learning rate, and curves against the range, drawn from the JSON in the page.
(() => {
  const box = document.getElementById("atlas-map")
  if (!box) return
  const data = JSON.parse(document.getElementById("atlas-data").textContent)
  const SVG = "http://www.w3.org/2000/svg", COLORS = ["#3d8fd1", "#d55e00", "#009e73", "#cc79a7"]
  const NAMES = {escape: "escape from the first plateau, tau", error: "final error"}
  const state = {quantity: "escape", entry: 0, lr: Math.floor(data.lrs.length / 2), range: null}
  const WIDTH = 640, LEFT = 62, RIGHT = 10

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElementNS(SVG, name)
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
    made.append(...children)
    return made
  }
  const text = (x, y, words, anchor = "middle") =>
    element("text", {x, y, "text-anchor": anchor, "font-size": 12, fill: "currentColor"}, words)
  const short = value => value === null ? "none" : Number(value.toPrecision(3)).toString()
  const all = () => data.entries.flatMap(entry => entry[state.quantity].flat()).filter(value => value !== null && value > 0)

  // position of a value on a logarithmic axis
  const axis = (low, high, from, to) => value => from + (to - from) * Math.log(value / low) / Math.log(high / low)
  const [first, last] = [data.ranges[0], data.ranges.at(-1)]
  const across = axis(first, last, LEFT, WIDTH - RIGHT)

  function ticks(svg, bottom) {
    for (const tick of [0.5, 1, 2, 4]) if (tick >= first && tick <= last * 1.001) svg.append(text(across(tick), bottom + 16, String(tick)))
    svg.append(text((LEFT + WIDTH) / 2, bottom + 34, "range of the weights"))
  }

  function map() {
    const rows = data.lrs.length, height = 26, svg = element("svg", {viewBox: `0 0 ${WIDTH} ${rows * height + 44}`, role: "img"})
    svg.setAttribute("aria-label", NAMES[state.quantity] + " over range and learning rate")
    const values = all(), shade = axis(Math.min(...values), Math.max(...values), 0, 1)
    const edges = data.ranges.map((range, j) => j ? Math.sqrt(range * data.ranges[j - 1]) : first)
    data.lrs.forEach((lr, i) => {
      const y = (rows - 1 - i) * height
      svg.append(text(LEFT - 6, y + 17, short(lr), "end"))
      data.ranges.forEach((range, j) => {
        const value = data.entries[state.entry][state.quantity][i][j], x = across(edges[j])
        const cell = element("rect", {x, y, width: (j + 1 < edges.length ? across(edges[j + 1]) : WIDTH - RIGHT) - x + 0.5, height: height - 1})
        cell.setAttribute("fill", value === null ? "#9995" : `hsl(${230 - 190 * shade(Math.max(value, Math.min(...values)))} 65% 50%)`)
        cell.dataset.range = j; cell.dataset.lr = i
        cell.addEventListener("pointerenter", () => say(i, j))
        cell.addEventListener("click", () => { state.lr = i; draw(); say(i, j) })
        svg.append(cell)
      })
    })
    svg.append(element("rect", {x: LEFT, y: (rows - 1 - state.lr) * height, width: WIDTH - LEFT - RIGHT, height: height - 1, fill: "none", stroke: "currentColor", "stroke-width": 2, "pointer-events": "none"}))
    ticks(svg, rows * height)
    return svg
  }

  function curves() {
    const height = 260, svg = element("svg", {viewBox: `0 0 ${WIDTH} ${height + 44}`, role: "img"})
    svg.setAttribute("aria-label", NAMES[state.quantity] + " against range for every bit width")
    const values = data.entries.flatMap(entry => entry[state.quantity][state.lr]).filter(value => value !== null && value > 0)
    if (!values.length) return svg
    const [low, high] = [Math.min(...values) * 0.9, Math.max(...values) * 1.1], up = axis(low, high, height, 8)
    svg.append(element("path", {d: `M${LEFT} 8V${height}H${WIDTH - RIGHT}`, fill: "none", stroke: "currentColor"}))
    for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power++)
      svg.append(text(LEFT - 6, up(10 ** power) + 4, String(Number((10 ** power).toPrecision(1))), "end"))
    svg.append(text(LEFT - 6, height, short(low), "end"), text(LEFT - 6, 14, short(high), "end"))
    data.entries.forEach((entry, k) => {
      const points = entry[state.quantity][state.lr].map((value, j) => value !== null && value > 0 ? [across(data.ranges[j]), up(value)] : null).filter(Boolean)
      if (!points.length) return
      const line = element("polyline", {points: points.map(point => point.join(",")).join(" "), fill: "none", stroke: COLORS[k], "stroke-width": k === state.entry ? 4 : 2})
      line.dataset.bits = entry.bits
      svg.append(line, element("text", {x: points.at(-1)[0] - 4, y: points.at(-1)[1] - 6, "text-anchor": "end", "font-size": 12, fill: COLORS[k]}, `${entry.bits} bits`))
    })
    ticks(svg, height)
    return svg
  }

  const said = document.createElement("p")
  said.setAttribute("role", "status")
  function say(i, j) {
    const entry = data.entries[state.entry], value = entry[state.quantity][i][j]
    said.textContent = `${entry.bits} bits, range ${short(data.ranges[j])}, lr ${short(data.lrs[i])}: ` + (value === null ? `no ${state.quantity === "escape" ? "plateau" : "fixed point"}` : `${state.quantity} ${short(value)}`)
  }

  function choice(label, options, key) {
    const select = document.createElement("select")
    options.forEach((name, value) => select.add(new Option(name, value)))
    select.addEventListener("change", () => { state[key] = key === "quantity" ? Object.keys(NAMES)[select.value] : Number(select.value); draw() })
    const holder = document.createElement("label")
    holder.append(label + " ", select)
    holder.style.marginRight = "1em"
    selects[key] = select
    return holder
  }
  const selects = {}, controls = document.createElement("p"), drawn = document.createElement("div")
  controls.append(
    choice("show", Object.values(NAMES), "quantity"),
    choice("bits", data.entries.map(entry => entry.bits), "entry"),
    choice("learning rate", data.lrs.map(short), "lr"),
  )
  box.replaceChildren(controls, said, drawn)

  function draw() {
    selects.lr.value = state.lr
    drawn.replaceChildren(map(), curves())
    for (const svg of drawn.children) svg.style.width = "100%"
    say(state.lr, Math.floor(data.ranges.length / 2))
  }
  draw()
})()
