"""A frozen model, a soft prompt and label words: made, tuned, evaluated."""

from skillneurons.classifiers._load_example import load_example as load_example
from skillneurons.classifiers.answers import Answers as Answers
from skillneurons.classifiers.bitfit_and_adapters import tune_adapter as tune_adapter
from skillneurons.classifiers.bitfit_and_adapters import tune_bitfit as tune_bitfit
from skillneurons.classifiers.classifier import Classifier as Classifier
from skillneurons.classifiers.evaluation import Evaluation as Evaluation
from skillneurons.classifiers.evaluation import evaluate as evaluate
from skillneurons.classifiers.peft import load_peft as load_peft
from skillneurons.classifiers.peft import save_peft as save_peft
from skillneurons.classifiers.prompts import Layout as Layout
from skillneurons.classifiers.prompts import SoftPrompt as SoftPrompt
from skillneurons.classifiers.prompts import Verbalizer as Verbalizer
from skillneurons.classifiers.prompts import random_prompt as random_prompt
from skillneurons.classifiers.prompts import written_prompt as written_prompt
from skillneurons.classifiers.tuning import TuningConfig as TuningConfig
from skillneurons.classifiers.tuning import TuningWarning as TuningWarning
from skillneurons.classifiers.tuning import tune_prompt as tune_prompt
