"""Turns to token ids and loss mask, together, for each chat template."""

from agenttuning.rendering.check import CheckResult, check_renderer
from agenttuning.rendering.pieces import Rendered
from agenttuning.rendering.renderer import Renderer, renderer_for
from agenttuning.rendering.show import coloured

__all__ = ["CheckResult", "Rendered", "Renderer", "check_renderer", "coloured", "renderer_for"]
