"""What a change makes of a place. Folding twice changes nothing; where a batch ends does not matter."""

from rollcall.core.records import Change, Place


def fold(place: Place | None, change: Change) -> Place:
    """The place after `change`; one that the place knows already leaves it as it is."""
    if place is not None and change.revision <= place.revision:
        return place
    return Place(change.record, change.revision, change.kind, change.at)
