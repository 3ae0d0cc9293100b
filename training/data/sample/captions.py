"""Captions of the drawn scenes: five sentences each, in a few variants, filled with the facts of a drawing.

The five sentences of a scene combine different facts, so that each of them is true, and no two say the same. Directions
are said with left, right, top, bottom, upper or lower.
"""

from collections.abc import Mapping

import numpy as np

# scene -> five sentences -> variants
SENTENCES: dict[str, tuple[tuple[str, ...], ...]] = {
    "airport": (
        (
            "{planes} {are} parked at an airport with {runways}.",
            "an airport with {runways} and {planes} on the apron.",
            "this airport has {runways} and {planes} at its gates.",
        ),
        (
            "the terminal with {roof} is {side} of this airport.",
            "{side} of the airport is a terminal building with {roof}.",
        ),
        (
            "{planes} {are} waiting in front of a terminal with {roof}.",
            "near the airport terminal with {roof} {are} {planes}.",
        ),
        (
            "an airport surrounded by {grass} with {runways} {far}.",
            "{runways} {far} of an airport, with {grass} around.",
        ),
        (
            "{planes} and a terminal {side} of an airport amid {grass}.",
            "an airport on {grass} where the terminal is {side} and {planes} {are} parked.",
        ),
    ),
    "storage_tanks": (
        (
            "{tanks} are {place} of a storage site.",
            "{place} of the picture are {tanks} for storage.",
        ),
        ("{tanks} for oil on {ground}.", "a storage site on {ground} has {tanks}."),
        (
            "a building with {roof} is {corner} near {colour} storage tanks.",
            "{corner} of the tank farm on {ground} is a building with {roof}.",
        ),
        (
            "{colour} storage tanks {place} and a building {corner} on {ground}.",
            "{colour} tanks {place} on {ground} and a building {corner}.",
        ),
        (
            "a pipe goes from {tanks} to a building with {roof}.",
            "{tanks} are joined by a pipe to a building with {roof}.",
        ),
    ),
    "baseball_field": (
        ("{fields} with {dirt} {are} {place}.", "{place} {are} {fields} with an infield of {dirt}."),
        ("{fields} {are} near a building with {roof}.", "a building with {roof} belongs to {fields}."),
        (
            "a baseball diamond of {dirt} and {edge} {edge_side}.",
            "{edge} is {edge_side} of a baseball park with {dirt}.",
        ),
        (
            "{corner} of the baseball park is a building with {roof}.",
            "the building by the baseball diamond is {corner} and has {roof}.",
        ),
        (
            "{fields} {place}, with {edge} {edge_side}.",
            "{edge} is {edge_side} and {fields} {are} {place}.",
        ),
    ),
    "tennis_courts": (
        (
            "{courts} with {surround} edges {are} {place}.",
            "{place} {are} {courts} in {surround} surroundings.",
        ),
        ("a building with {roof} is close to {courts}.", "{courts} {are} near a building with {roof}."),
        (
            "{court} courts for tennis with {surround} edges, and {edge} {edge_side}.",
            "{edge} is {edge_side} of the {court} courts for tennis with {surround} edges.",
        ),
        (
            "{corner} of the tennis club is a building with {roof}.",
            "a clubhouse with {roof} is {corner} and the tennis is played on {court} ground.",
        ),
        ("{courts} {place}, with {edge} {edge_side}.", "{edge} is {edge_side} and {courts} {are} {place}."),
    ),
    "harbor": (
        (
            "{boats} are moored in a harbor with {piers}.",
            "a harbor with {piers} where {boats} are docked.",
        ),
        ("{sheds} {side} of the harbor.", "the quay {side} of the harbor has {sheds}."),
        (
            "the quay is {side} of a harbor with {water} and {piers}.",
            "a harbor with {water}, {piers} and the quay {side}.",
        ),
        ("{boats} on {water} close to {sheds}.", "a harbor with {boats} on {water} and {sheds} on the quay."),
        (
            "open {water} is {open} of the harbor and {colour} boats lie at {piers}.",
            "{colour} boats lie at {piers} in a harbor that is open {open}.",
        ),
    ),
    "bridge": (
        ("{bridge} over {river} carries {cars}.", "{cars} on {bridge} that crosses {river}."),
        ("{river} flows {way} under {bridge}.", "{bridge} crosses {river} that runs {way}."),
        (
            "a river with {near} {near_side} and {far} {far_side}.",
            "{bridge} joins a bank with {near} {near_side} and one with {far}.",
        ),
        (
            "{bridge} is {place} and {near} can be seen {near_side}.",
            "{place} of the picture is {bridge}, and {near} {near_side}.",
        ),
        (
            "{cars} on a bridge {place} over {river} with {far} {far_side}.",
            "{river} with {far} {far_side} and a bridge with {cars} {place}.",
        ),
    ),
    "farmland": (
        (
            "{round} lies {round_place} of farmland with {crops} fields.",
            "{round_place} of the {crops} farmland is {round}.",
        ),
        ("{crops} fields around {barns}.", "{barns} on a farm with {crops} fields."),
        ("{barns} {barn_place} of the farmland.", "{barn_place} of the fields the farm has {barns}."),
        (
            "a dirt road runs {way} between {crops} fields and {round}.",
            "{crops} fields and {round} with a dirt road {way}.",
        ),
        (
            "farmland with {round} {round_place} and {barns}.",
            "{barns} {barn_place} and {round} beyond the road.",
        ),
    ),
    "forest": (
        ("{pond} lies {pond_place} of {forest}.", "{forest} with {pond} {pond_place}."),
        ("{cabins} in a clearing of {forest}.", "{forest} surrounds a clearing with {cabins}."),
        (
            "a clearing {cabin_place} of the forest has {cabins}.",
            "{cabin_place} of the woods is a clearing with {cabins}.",
        ),
        (
            "many {tone} trees with {path} through the forest and {pond}.",
            "there is {path} through the {tone} trees around {pond}.",
        ),
        (
            "{tone} woods with {pond} {pond_place} and {cabins}.",
            "{pond} {pond_place} and {cabins} among {tone} trees.",
        ),
    ),
    "dense_residential": (
        (
            "many houses with {roofs} stand close together beside {strip}.",
            "a dense residential area of {roofs} next to {strip}.",
        ),
        (
            "{strip} is {side} of a dense residential area with {school}.",
            "{side} of the crowded housing with {school} is {strip}.",
        ),
        (
            "{school} among houses with {roofs} in tight rows.",
            "rows of houses with {roofs} stand around {school}.",
        ),
        (
            "{school} is {place} of the dense housing by {strip}.",
            "{place} of the quarter by {strip} is {school}.",
        ),
        (
            "streets {way} between houses with {roofs}, and {strip} {side}.",
            "rows of {roofs} along two streets {way}, with {strip} {side}.",
        ),
    ),
    "sparse_residential": (
        ("{houses} and {pools} far apart on {ground}.", "on {ground} are {houses} and {pools}."),
        ("{houses} and {road} {side}.", "{road} {side} leads to {houses}."),
        ("{pools} in gardens on {ground} with {road} {side}.", "gardens on {ground} near {houses} have {pools}."),
        (
            "a sparse residential area with {road} {side} and {pools}.",
            "scattered houses with {pools} and {road} {side}.",
        ),
        ("{houses} among trees and {ground}.", "trees and {ground} surround {houses}."),
    ),
    "parking_lot": (
        ("a {full} parking lot with {rows} of {cars}.", "{rows} of {cars} on a parking lot that is {full}."),
        (
            "a building with {roof} is {side} of the parking lot.",
            "{side} of the parking lot is a building with {roof}.",
        ),
        (
            "{cars} are parked before a building with {roof}.",
            "the building with {roof} has a parking lot with {cars}.",
        ),
        (
            "a {full} parking lot amid {edge} with a building {side}.",
            "{edge} around a {full} parking lot, and a building {side}.",
        ),
        (
            "{rows} of cars with {edge} around and a building {side}.",
            "a {full} parking lot with {rows} of cars amid {edge}.",
        ),
    ),
    "stadium": (
        (
            "a stadium with {stands} and {track} on {ground}.",
            "{track} lies inside a stadium with {stands} on {ground}.",
        ),
        (
            "the stadium with {stands} is {place} and {edge} {edge_side}.",
            "{place} is a stadium and {corner} a building with {roof}.",
        ),
        (
            "a stadium on {ground} with {edge} {edge_side}.",
            "{edge} is {edge_side} of a stadium surrounded by {ground}.",
        ),
        (
            "a stadium with {track} is long {way}, near a building with {roof}.",
            "near a building with {roof} a long stadium {way} has {track}.",
        ),
        ("{stands} of a stadium on {ground} near {edge}.", "near {edge} on {ground} is a stadium with {stands}."),
    ),
    "roundabout": (
        (
            "{roads} meet at a roundabout with {island} in the middle.",
            "{roads} lead to a roundabout with {island} at its centre.",
        ),
        ("{cars} {are} driving on a roundabout near {houses}.", "{houses} near a roundabout with {cars}."),
        ("roads come from {reach} to a roundabout with {island}.", "a roundabout with {cars} and roads from {reach}."),
        ("{cars} {are} going around {island} on the roundabout.", "the roundabout with {island} has {cars}."),
        (
            "a roundabout with {island} inside and {houses} beside it.",
            "{houses} near a roundabout around {island}.",
        ),
    ),
    "beach": (
        (
            "{umbrellas} are on a beach and {boats} on the {water}.",
            "{boats} on the {water} near a beach with {umbrellas}.",
        ),
        ("the {water} is {side} and {umbrellas} are on the sand.", "a beach with {umbrellas} and the {water} {side}."),
        (
            "{edge} is {edge_side} of the beach and {boats} on the {water}.",
            "{boats} on the {water} off a beach with {edge} {edge_side}.",
        ),
        ("a sandy beach with {umbrellas} and {edge} {edge_side}.", "{umbrellas} stand between {edge} and the sea."),
        ("waves of the {water} come in {side}, and {boats} can be seen.", "{boats} can be seen {side} on the {water}."),
    ),
}


def write_captions(rng: np.random.Generator, scene: str, facts: Mapping[str, str]) -> list[str]:
    """The five captions of a drawing, in the order of the sentences of its scene.

    Args:
        rng: chooses the variants.
        scene: a key of `SENTENCES`.
        facts: the phrases that the sentences have places for.

    Returns:
        Five sentences, capitalised, with a full stop.
    """
    chosen = (variants[int(rng.integers(len(variants)))] for variants in SENTENCES[scene])
    sentences = (sentence.format_map(facts) for sentence in chosen)
    return [sentence[0].upper() + sentence[1:] for sentence in sentences]
