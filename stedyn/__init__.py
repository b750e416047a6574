"""High-dimensional dynamics of quantized SGD: predict, simulate, compare.

The public names are listed in ``__init__.pyi``; each is imported when it is first used, so that help and
faults of the command line need not wait for the solvers.

>>> import stedyn
>>> p = stedyn.Problem(weights=stedyn.Quantizer(2, 2.0), rule=stedyn.SGD(lr=0.1))
>>> p.weights.n_levels
4
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
