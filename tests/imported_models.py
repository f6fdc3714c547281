"""Records of imports as they stand in config.json: whole ones, and what a stranger's file may hold in their place."""

import json

SOURCE = "histai/SPIDER-skin-model"
REVISION = "0123456789abcdef0123456789abcdef01234567"
SHA256 = "5e" * 32
PROOF = {
    "date": "2026-11-29",
    "code": {"modeling_x.py": "c0" * 32},
    "transformers": "4.57.6",
    "regions": 6,
    "difference": 1.2e-6,
    "spread": 0.8,
}
NEVER_HELD = (
    f"Not verified: imported from {SOURCE} at {REVISION} and never held against the source's own code, so that figures "
    "may be of another model than the published one. Assumed: The class is read at the centre. One attention head."
)
HELD = (
    f"Verified: imported from {SOURCE} at {REVISION} and held, on 2026-11-29, against the source's own code with "
    "Transformers 4.57.6 on 6 regions; logits differ by at most 1.5e-06 of their spread."
)


def unverified(**changes):
    assumptions = ["The class is read at the centre.", "One attention head."]
    record = {"source": SOURCE, "revision": REVISION, "verified": False, "assumptions": assumptions}
    return record | {"weights_sha256": SHA256} | changes


def verified(**changes):
    return unverified(verified=True, assumptions=[], proof=PROOF) | changes


def with_proof(**changes):
    return verified(proof=PROOF | changes)


# None of them says in whole whether the import was verified.
MALFORMED = {
    "a word": "verified",
    "a list": [verified()],
    "yes": True,
    "no": False,
    "nothing": {},
    "a word for true": verified(verified="true"),
    "a number for true": verified(verified=1),
    "no proof": {name: value for name, value in verified().items() if name != "proof"},
    "an empty proof": verified(proof={}),
    "a proof in words": verified(proof="by hand"),
    "a proof without numbers": with_proof(regions=None, difference=None, spread=None),
    "numbers in words": with_proof(difference="1.2e-6", spread="0.8"),
    "no difference": with_proof(difference=float("nan")),
    "a negative difference": with_proof(difference=-1e-6),
    "an infinite difference": with_proof(difference=float("inf")),
    "a number beyond floats": with_proof(difference=10**400, spread=10**401),
    "a truth value for a number": with_proof(difference=False),
    "no spread": with_proof(spread=0),
    "a difference as large as the spread": with_proof(difference=0.8),
    "no regions": with_proof(regions=0),
    "half a region": with_proof(regions=0.5),
    "no date": with_proof(date=None),
    "a date in parts": with_proof(date=[2026, 11, 29]),
    "a number for a version": with_proof(transformers=4.57),
    "no code": with_proof(code={}),
    "code in words": with_proof(code="modeling_x.py"),
    "a number for the source": verified(source=7),
    "a list for the source": verified(source=[SOURCE]),
    "a number for the revision": verified(revision=7),
    "one assumption in words": verified(assumptions="The class is read at the centre."),
    "no assumptions": verified(assumptions=None),
    "assumptions in spite of a proof": verified(assumptions=["The class is read at the centre."]),
    "no weights": verified(weights_sha256=None),
}


def note_import(folder, record):
    """Put a record into config.json of a model's folder."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"import": record}))
    return folder
