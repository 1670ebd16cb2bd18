"""The names of subjects in a store: their own, or keyed hashes (pseudonyms)."""

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Mapping

from metasr.data.patients import patient_of
from metasr.data.subjects import Subject
from metasr.errors import ConfigError

KEY_VARIABLE = "METASR_PSEUDONYM_KEY"
NUM_DIGITS = 16

Names = Callable[[str], str]
"""Maps the name of a subject to the stored name."""


def stored_names(
    pseudonymise: bool, environment: Mapping[str, str] = os.environ, subjects: Iterable[Subject] = ()
) -> Names:
    """Return the function from names to stored names.

    A pseudonym is `<hash of the patient>`, or `<hash of the patient>-<hash of the subject>` where the patient has
    visits: HMAC-SHA256, 16 hexadecimal digits. Without the key nobody can compute it, or test names against it; with
    the same key a patient has the same pseudonym in every data set. Whoever knows all names can find out who is in
    which split, by the seed in the index; the order within a split reveals nothing.

    Args:
        pseudonymise: Store pseudonyms instead of names.
        environment: Environment variables, with the key.
        subjects: Subjects with known patients; for others the name tells the patient.

    Raises:
        ConfigError: The key is missing.
    """
    if not pseudonymise:
        return str
    key = environment.get(KEY_VARIABLE, "").encode()
    if not key:
        raise ConfigError(
            f"{KEY_VARIABLE} is not set",
            "pseudonyms are made with a secret key",
            "Set it, for example to the output of `openssl rand -hex 32`, and keep it safe",
        )

    def keyed(text: str) -> str:
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:NUM_DIGITS]

    patients = {subject.name: subject.patient for subject in subjects}
    patients |= {patient: patient for patient in patients.values()}

    def pseudonym(subject: str) -> str:
        patient = patients.get(subject) or patient_of(subject)
        return keyed(patient) if patient == subject else f"{keyed(patient)}-{keyed(subject)}"

    return pseudonym
