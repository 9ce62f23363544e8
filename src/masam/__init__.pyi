"""The public names of masam: the only list of them. ``__init__.py`` imports a name when it is first used."""

from masam.evaluation import evaluate as evaluate
from masam.evaluation.prompted import evaluate_prompts as evaluate_prompts
from masam.predict.predictor import Predictor as Predictor
from masam.predict.sam import SamPredictor as SamPredictor
from masam.pretraining.run import pretrain as pretrain
from masam.prompts import Box3D as Box3D
from masam.prompts import Click as Click
from masam.prompts import MaskOnSlice as MaskOnSlice
from masam.training.planning import plan_dataset as plan_dataset
from masam.training.run import train as train
from masam.training.run import train_folds as train_folds
from masam.volume import Geometry as Geometry
from masam.volume import Volume as Volume
from masam.weights.model_file import build_masam as build_masam
from masam.weights.model_file import load as load
from masam.weights.model_file import save as save
from masam.weights.official import load_reference as load_reference
from masam.weights.official import save_reference as save_reference

__version__: str
