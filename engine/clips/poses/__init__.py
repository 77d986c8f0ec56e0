"""Poses of a figure over time: read from files and videos, made from motions, fitted to a figure, drawn."""
