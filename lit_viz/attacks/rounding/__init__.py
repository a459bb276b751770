"""Adversarial examples as 8-bit files: rounding within the ball, repair and verification."""
