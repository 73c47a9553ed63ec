"""edgekd: distill, compress and prove a model that fits an edge device.

>>> import edgekd
>>> edgekd.__version__
'0.1.0'
"""

from typing import TYPE_CHECKING, Any

from edgekd._version import __version__

__all__ = ["__version__", "build", "make_plan"]

if TYPE_CHECKING:
    from edgekd.pipeline import build
    from edgekd.plan.planning import make_plan


def __getattr__(name: str) -> Any:
    """Load the public functions on first use, so that importing edgekd costs nothing."""
    if name in __all__:
        from edgekd.core.cpus import set_thread_defaults

        set_thread_defaults()  # here, since what is imported next loads NumPy
    if name == "build":
        from edgekd.pipeline import build

        return build
    if name == "make_plan":
        from edgekd.plan.planning import make_plan

        return make_plan
    raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
