"""Remove channels from a model: find the groups, rank them, remove them, repair what is left.

`find_channels` -> `score_channels` -> `choose_channels` -> `remove_channels`; `prune_channels` is all of it.
"""

from bigmodel.pruning.channels.cost import Cost, CostModel
from bigmodel.pruning.channels.groups import ChannelMap, Group, Member, find_channels
from bigmodel.pruning.channels.ranking import score_channels, sum_by_channel
from bigmodel.pruning.channels.removal import remove_channels
from bigmodel.pruning.channels.repair import renew_statistics, repair_channels
from bigmodel.pruning.channels.selection import choose_channels, choose_for_cost
from bigmodel.pruning.channels.sensitivity import Sensitivity, sensitivity
from bigmodel.pruning.channels.step import prune_channels

__all__ = [
    "ChannelMap",
    "Cost",
    "CostModel",
    "Group",
    "Member",
    "Sensitivity",
    "choose_channels",
    "choose_for_cost",
    "find_channels",
    "prune_channels",
    "remove_channels",
    "renew_statistics",
    "repair_channels",
    "score_channels",
    "sensitivity",
    "sum_by_channel",
]
