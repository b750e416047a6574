"""How programs of the limit are compiled."""

import jax

#: Options of programs that are run few times.
QUICKLY = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # which has no other way to compile loops
    QUICKLY["xla_cpu_use_fusion_emitters"] = False
