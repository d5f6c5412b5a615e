"""The losses of the paper. Each is called as ``loss(net, batch, generator)`` and returns its terms and their total.

A batch holds ``image`` (B, 3, H, W) float, ``mask`` (B, H, W) integer and ``points`` (B, H, W) integer.
"""
