"""Networks: transformers' classes with our configuration, and a few small ones of ours.

`build.build_network` makes a new one from a recipe, `load.load_network` reads one from
a directory on disk, `parts.apply_parts` freezes, replaces and adds. To everybody else
a network is what `network.Network` says.
"""
