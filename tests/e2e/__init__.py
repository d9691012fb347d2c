"""Tests of real processes over real HTTP."""
