from __future__ import annotations

import numpy as np
import shapely

from wsi_pipeline.prompts.prompt import Prompt, points_as_boxes


def test_a_point_becomes_a_box_around_it_and_keeps_what_it_is() -> None:
    point = Prompt("a", "point", shapely.Point(10, 20), positive=np.array([[10.0, 20.0]]), class_name="Tumor")
    (box,) = points_as_boxes([point], 6, 4)
    assert (box.kind, box.box, box.id, box.class_name) == ("box", (7, 18, 13, 22), "a", "Tumor")


def test_several_points_of_one_prompt_lie_in_one_box() -> None:
    points = Prompt("a", "point", shapely.MultiPoint([(0, 0), (30, 10)]), positive=np.array([[0.0, 0], [30, 10]]))
    assert points_as_boxes([points], 10, 10)[0].box == (-5, -5, 35, 15)


def test_boxes_and_outlines_stay_as_they_are() -> None:
    others = [Prompt("a", "box", shapely.box(0, 0, 5, 5)), Prompt("b", "mask", shapely.Point(3, 3).buffer(2))]
    assert points_as_boxes(others, 10, 10) == others
