"""Adversarial examples as 8-bit files: rounding inside the ball, repair and verification."""
