"""The bundled model: scenes, questions, training, weights."""
