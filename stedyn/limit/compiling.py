"""How programs of the limit are compiled, which users wait for most."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

_ONCE: dict[str, bool | int] = {"xla_backend_optimization_level": 0}
#: Options of programs that run for a while: at this level of optimization they run as fast, compiled in half the time.
SOON: dict[str, bool | int] = {"xla_backend_optimization_level": 1}
if jax.__version_info__ < (0, 11):  # which has no other way to compile loops
    _ONCE["xla_cpu_use_fusion_emitters"] = SOON["xla_cpu_use_fusion_emitters"] = False


def once(function: Callable) -> Any:
    """Compile what runs once: in a quarter of the time, to run five times as long. Not within other programs."""
    return eqx.filter_jit(function, compiler_options=_ONCE)  # type: ignore[call-overload]


def soon(function: Callable) -> Any:
    """Compile what runs for a while (`SOON`). Not within other programs."""
    return eqx.filter_jit(function, compiler_options=SOON)  # type: ignore[call-overload]
