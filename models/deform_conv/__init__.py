"""Modulated deformable convolution (DCNv2): one function, three backends, and one table that says which serves what."""

from models.deform_conv.operator import BACKENDS, SERVING, Choice, choose_backend, deform_conv2d, serving_backend

__all__ = ["BACKENDS", "SERVING", "Choice", "choose_backend", "deform_conv2d", "serving_backend"]
