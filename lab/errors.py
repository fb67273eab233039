"""What can go wrong when hosts are made on this machine."""


class LabError(Exception):
    """The lab cannot be brought up or down; the text says why and what to do."""


class ChoiceError(LabError):
    """A lab that was asked for cannot be."""
