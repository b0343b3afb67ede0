"""An archive of slides of many formats, twelve of them broken, through the command line.

python -m benchmarks.mixed_archive --slides 200 --data slides --output out

Pixels are pieces of the slide that ships with the package. What is broken is broken in twelve different ways; whatever
slides lie in the ``--data`` folder are run, too. It ends with 1 where something else came out than was expected.
"""
