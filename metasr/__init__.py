"""Meta-SRGAN: arbitrary-scale super-resolution of brain MRI. The science, on torch alone."""

__version__ = "0.1.0"
