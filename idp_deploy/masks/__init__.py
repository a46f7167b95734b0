"""Pure tensor math of pruning: selection of the k-th value, the soft mask of IDP, patterns, and what is prunable."""

from idp_deploy.masks.hard import write_zeros
from idp_deploy.masks.parts import APART, copied, in_parts, join_in, whole_copy
from idp_deploy.masks.patterns import NM, PATTERNS, Block, Channel, Free, Pattern, parse_pattern
from idp_deploy.masks.prunable import KINDS, Place, Prunable, computed_weights, prunable_weights
from idp_deploy.masks.selection import keep_largest, smallest_kept_and_largest_pruned
from idp_deploy.masks.soft import SMALLEST_TEMPERATURE, apply_soft_mask, as_numbers, is_transformed, soft_mask

__all__ = [
    "APART",
    "KINDS",
    "NM",
    "PATTERNS",
    "SMALLEST_TEMPERATURE",
    "Block",
    "Channel",
    "Free",
    "Pattern",
    "Place",
    "Prunable",
    "apply_soft_mask",
    "as_numbers",
    "computed_weights",
    "copied",
    "in_parts",
    "is_transformed",
    "join_in",
    "keep_largest",
    "parse_pattern",
    "prunable_weights",
    "smallest_kept_and_largest_pruned",
    "soft_mask",
    "whole_copy",
    "write_zeros",
]
