"""Fixtures for users' own tests. Imports nothing but pytest when pytest starts."""

from __future__ import annotations
