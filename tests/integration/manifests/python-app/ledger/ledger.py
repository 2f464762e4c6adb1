def total(entries: list[int]) -> int:
    return sum(entries)
