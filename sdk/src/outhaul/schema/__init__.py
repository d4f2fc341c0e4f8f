"""Packages of numbered SQL files, one a component; `outhaul.database.schema_apply` applies them."""
