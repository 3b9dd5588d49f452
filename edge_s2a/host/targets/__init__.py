"""Engines that a graph is written for, one package each."""
