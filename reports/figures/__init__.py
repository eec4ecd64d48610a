"""Figures that are drawn, never written."""
