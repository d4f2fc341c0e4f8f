"""Packages of numbered SQL files, one a component; `outhaul.schema_apply` applies them."""
