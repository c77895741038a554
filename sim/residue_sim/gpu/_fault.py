"""What the emulated GPU raises."""

__all__ = ["KernelFault"]


class KernelFault(AssertionError):
    """Kernels that do what a GPU must not be asked for, or a value above its bound."""
