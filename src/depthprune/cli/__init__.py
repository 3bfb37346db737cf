"""The command line. Nothing here imports torch before the arguments are parsed."""
