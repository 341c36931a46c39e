"""Names of the classes as the datasets' own files give them; a name's place is its class id (1, 2, ... K).

In semantic maps the same classes are 0, 1, ... K - 1.
"""


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


# fmt: off
YOUTUBE_VIS_2021 = _names("""
    airplane, bear, bird, boat, car, cat, cow, deer, dog, duck, earless_seal, elephant, fish, flying_disc, fox, frog,
    giant_panda, giraffe, horse, leopard, lizard, monkey, motorbike, mouse, parrot, person, rabbit, shark, skateboard,
    snake, snowboard, squirrel, surfboard, tennis_racket, tiger, train, truck, turtle, whale, zebra
""")

OVIS = _names("""
    Person, Bird, Cat, Dog, Horse, Sheep, Cow, Elephant, Bear, Zebra, Giraffe, Poultry, Giant_panda, Lizard, Parrot,
    Monkey, Rabbit, Tiger, Fish, Turtle, Bicycle, Motorcycle, Airplane, Boat, Vehicle
""")

CITYSCAPES = _names("""
    unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, road, sidewalk, parking,
    rail track, building, wall, fence, guard rail, bridge, tunnel, pole, polegroup, traffic light, traffic sign,
    vegetation, terrain, sky, person, rider, car, truck, bus, caravan, trailer, train, motorcycle, bicycle
""")

CITYSCAPES_EVALUATED = _names("""
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider,
    car, truck, bus, train, motorcycle, bicycle
""")

VIPSEG = _names("""
    wall, ceiling, door, stair, ladder, escalator, Playground_slide, handrail_or_fence, window, rail, goal, pillar,
    pole, floor, ground, grass, sand, athletic_field, road, path, crosswalk, building, house, bridge, tower, windmill,
    well_or_well_lid, other_construction, sky, mountain, stone, wood, ice, snowfield, grandstand, sea, river, lake,
    waterfall, water, billboard_or_Bulletin_Board, sculpture, pipeline, flag, parasol_or_umbrella, cushion_or_carpet,
    tent, roadblock, car, bus, truck, bicycle, motorcycle, wheeled_machine, ship_or_boat, raft, airplane, tyre,
    traffic_light, lamp, person, cat, dog, horse, cattle, other_animal, tree, flower, other_plant, toy, ball_net,
    backboard, skateboard, bat, ball, cupboard_or_showcase_or_storage_rack, box, traveling_case_or_trolley_case,
    basket, bag_or_package, trash_can, cage, plate, tub_or_bowl_or_pot, bottle_or_cup, barrel, fishbowl, bed, pillow,
    table_or_desk, chair_or_seat, bench, sofa, shelf, bathtub, gun, commode, roaster, other_machine, refrigerator,
    washing_machine, Microwave_oven, fan, curtain, textiles, clothes, painting_or_poster, mirror, flower_pot_or_vase,
    clock, book, tool, blackboard, tissue, screen_or_television, computer, printer, Mobile_phone, keyboard,
    other_electronic_product, fruit, food, instrument, train
""")
# fmt: on
