"""Two real tables inside scikit-learn: nothing to download."""

from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes

from datamodules.table_files import Frame
from datamodules.tables import TableClassification, TableRegression


class Diabetes(TableRegression):
    """442 patients: age, sex, body mass index, blood pressure and six blood sera, to predict how far diabetes has gone
    on a year later (Efron et al. 2004, Least Angle Regression, https://doi.org/10.1214/009053604000000067).
    """

    def __init__(self, test_fraction: float = 0.2, **kwargs: Any) -> None:
        super().__init__("diabetes", "progression", test_fraction=test_fraction, **kwargs)

    def source(self) -> Frame:
        found = load_diabetes(as_frame=True, scaled=False)
        return Frame(found.data.assign(progression=found.target))


class BreastCancer(TableClassification):
    """569 tumours: 30 measurements of cell nuclei, to tell malignant from benign (Wolberg et al. 1993, UCI,
    https://doi.org/10.24432/C5DW2B).
    """

    def __init__(self, test_fraction: float = 0.2, **kwargs: Any) -> None:
        super().__init__("breast cancer", "diagnosis", test_fraction=test_fraction, **kwargs)

    def source(self) -> Frame:
        found = load_breast_cancer(as_frame=True)
        return Frame(found.data.assign(diagnosis=np.array(found.target_names)[found.target]))
