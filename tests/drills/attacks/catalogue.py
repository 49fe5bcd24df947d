"""All attacks, by name."""

from __future__ import annotations

from drills.attacks import floods, header_blocks, messages, pages, resets, slow, tls
from drills.attacks.attack import Attack

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for module in (resets, header_blocks, floods, slow, messages, tls, pages)
    for attack in module.ATTACKS
}
