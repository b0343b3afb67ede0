"""Automatic nuclei on annotated tiles: the classical detector against the domain decoder, alone and with segmenters.

python -m benchmarks.finding --data tiles --decoder nuclei.safetensors \\
    --head hq-sam --head wsi-sam --adapted lora-8/lora-sam.safetensors --adapted lora-0/lora-sam.safetensors \\
    --write docs/reference/finding-nuclei.md

Whatever a way of finding leaves to choose was chosen on training tiles, or is with ``--twin``; validation tiles are
only measured. They are cut into patches, asked about and put together as a dense run does. All numbers of the page are
those that ``--json`` holds.
"""
