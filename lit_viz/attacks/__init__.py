"""Adversarial attacks, one a file: how little must change for the network to be wrong?"""
