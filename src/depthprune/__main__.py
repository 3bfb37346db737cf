"""`python -m depthprune`, which launchers such as torchrun need."""

from depthprune.cli.verbs import main

main()
