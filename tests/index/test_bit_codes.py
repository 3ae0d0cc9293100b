"""Codes keep angles, stay the same for ever, and choose candidates among which the nearest vectors are."""

import numpy as np

from modeling_pir.index.stores.bit_codes import NUM_BITS, _planes, encode, nearest_codes


def test_codes_differ_by_the_angle_and_are_the_same_for_ever():
    angles = np.linspace(0, np.pi, 7)
    vectors = np.stack([np.cos(angles), np.sin(angles), *np.zeros((30, 7))], axis=1).astype(np.float32)
    codes = encode(vectors)
    differences = np.bitwise_count(codes ^ codes[0]).sum(axis=1) / NUM_BITS
    np.testing.assert_allclose(differences, angles / np.pi, atol=0.04)
    # They are stored: another numpy must not draw other planes.
    assert codes[1, :8].tobytes().hex() == "ba0de3a61f190071"


def test_planes_are_at_right_angles_within_each_block():
    block = _planes(64)[:, 64:128]
    np.testing.assert_allclose(block.T @ block, np.eye(64), atol=1e-5)


def test_a_query_far_from_all_vectors_finds_its_nearest_among_the_candidates():
    # Like a sentence among images: the vectors share a direction, the query has little of it and of each.
    generator = np.random.default_rng(0)
    shared = generator.standard_normal(192)
    vectors = shared / np.linalg.norm(shared) * 14 + generator.standard_normal((6000, 192))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    codes, places, found = encode(vectors), np.arange(6000), []
    for query in generator.standard_normal((20, 192)).astype(np.float32):
        chosen = nearest_codes(codes, places, query / np.linalg.norm(query), 200)
        best = np.argsort(-(vectors @ query))[:10]
        found.append(np.isin(best, chosen).mean())
        assert len(set(chosen.tolist())) == 200
    assert np.mean(found) >= 0.97
