"""The doctor: what is wrong with a training, and which key mends it."""

from callbacks.doctor.diagnosis import Diagnosis, Evidence, Thresholds
from callbacks.doctor.doctor import DIAGNOSES, Doctor, Finding
from callbacks.doctor.history import History
from callbacks.doctor.remedies import Keys

__all__ = ["DIAGNOSES", "Diagnosis", "Doctor", "Evidence", "Finding", "History", "Keys", "Thresholds"]
