"""What was tried to choose the settings of the arms, on facts that no reported run has."""

from arms import LASTING, REPLAY

TUNING_SEED = 100
TRIED = {"lasting": (LASTING, 10), "fine-tuning with replay": (REPLAY, 20)}
