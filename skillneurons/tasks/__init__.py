"""Rows with labels and label words: bundled, from files, from the hub; and how they become batches."""

from skillneurons.tasks._control_task import control_task as control_task
from skillneurons.tasks._load_task import bundled_tasks as bundled_tasks
from skillneurons.tasks._load_task import load_task as load_task
from skillneurons.tasks.task import SPLITS as SPLITS
from skillneurons.tasks.task import Rows as Rows
from skillneurons.tasks.task import Task as Task
from skillneurons.tasks.task import stratified as stratified
