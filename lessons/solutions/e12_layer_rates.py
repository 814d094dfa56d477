"""Solution of lesson 12, exercise 1."""


def rates(names: list[str], peak: float, layer_decay: float, head: float) -> dict[str, float]:
    top = max(int(name.split(".")[2]) for name in names if name.startswith("encoder.blocks."))
    found = {}
    for name in names:
        part, *rest = name.split(".")
        if part != "encoder":
            found[name] = head
        else:
            above = top - int(rest[1]) if rest[0] == "blocks" else top + 1
            found[name] = peak * layer_decay**above
    return found
