"""The local page of ``stedyn explore``: a problem to play with in the browser (``docs/explore.md``).

`view` is what the page shows, `answers` computes it in stages, `latest` computes only what is asked last; `controls`,
`figures`, `page` and `server` draw it with Panel (``pip install 'stedyn[explore]'``), which nothing else imports.
"""
