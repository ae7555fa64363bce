"""Mixture and packing plans, attention over packs, loss, the ZeRO-3 loop, checkpoints and export."""
