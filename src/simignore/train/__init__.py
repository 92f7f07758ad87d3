"""A similarity that learns what the decoder needs: data, teacher, losses, and the run that trains a head.

In the order of reading: ``objective`` says what is aimed at, ``losses`` are the pure functions, ``teacher`` the decoder's flow,
``cut`` the shortened forward, ``student`` puts them together, ``data``, ``records`` and ``collator`` make batches, and
``trainer`` runs.
"""

from simignore.train.adapters import adapted as adapted
from simignore.train.data import Example as Example
from simignore.train.data import Region as Region
from simignore.train.data import Scenes as Scenes
from simignore.train.objective import Objective as Objective
from simignore.train.records import Records as Records
from simignore.train.settings import Settings as Settings
from simignore.train.student import Student as Student
from simignore.train.trainer import convergence as convergence
from simignore.train.trainer import train as train
