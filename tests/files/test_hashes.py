"""Tests the hash of parts of large files."""

from rlif.files.hashes import LENGTH, PARTS, hash_weights, sampled_hash


def test_a_change_at_either_end_or_of_the_size_is_seen(tmp_path):
    path, size = tmp_path / "a.safetensors", PARTS * LENGTH + 1000
    found = set()
    for places in ((), (0,), (size - 1,), (size // 2,), range(0, size, LENGTH)):
        data = bytearray(size)
        for place in places:
            data[place] = 1
        path.write_bytes(data)
        found.add(sampled_hash([path]))
    path.write_bytes(bytes(size + 1))
    assert len(found | {sampled_hash([path])}) >= 5, "what lies between two parts is not seen"


def test_small_files_are_read_whole_and_names_count(tmp_path):
    for name, data in (("a.safetensors", b"1" * 99_999), ("b.bin", b"2"), ("config.json", b"3")):
        (tmp_path / name).write_bytes(data)
    before = hash_weights(tmp_path)
    (tmp_path / "config.json").write_bytes(b"4")
    assert hash_weights(tmp_path) == before
    (tmp_path / "a.safetensors").write_bytes(b"1" * 50_000 + b"2" + b"1" * 49_998)
    assert hash_weights(tmp_path) != before
    (tmp_path / "b.bin").rename(tmp_path / "c.bin")
    assert hash_weights(tmp_path / "nothing") is None
