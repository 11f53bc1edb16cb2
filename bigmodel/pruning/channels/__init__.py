"""Remove channels from a model: find the groups, rank them, remove them, repair what is left.

`find_channels` -> `score_channels` -> `choose_channels` -> `remove_channels`; `prune_channels` is all of it.
"""

from bigmodel.pruning.channels.groups import ChannelMap, Group, Member, find_channels
from bigmodel.pruning.channels.removal import remove_channels

__all__ = ["ChannelMap", "Group", "Member", "find_channels", "remove_channels"]
