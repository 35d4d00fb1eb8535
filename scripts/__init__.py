"""The command line and the training scripts: parse, wire, call one function."""
