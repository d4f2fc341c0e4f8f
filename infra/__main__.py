"""What Pulumi runs; see Pulumi.yaml."""  # noqa: INP001 - Pulumi runs the folder, nobody imports it

from pathlib import Path

from outhaul_infra.program import run

run(Path(__file__).parent.parent)
