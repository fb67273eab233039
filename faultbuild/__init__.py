"""What a fault build has and no other release: points at which it stops, its load, mistakes.

`cluster.release` puts these modules beside `rdht`, and `sitecustomize.py` at the top, where Python
imports it whenever a process of that release starts. Nothing of `rdht` knows of it.
"""
