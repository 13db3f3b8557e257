"""The phantom cohort: synthetic releases with the folder layout and file names of the real ones.

Anatomy from the ICBM152 template, a new person by deformation, contrast by MR signal equations on five synthetic
scanners, pathology with ground truth. Everything follows from (seed, dataset, subject): not from the order of making,
nor from the number of processes.

    anatomy, head, landmarks, shapes   the average head: tissue fractions and regions
    deformation, spline, rng           from it to a person
    pathology/, variants               what a person has, sick or healthy
    tissue, signal, scanners           MR physics
    acquisition, artefacts             images as a scanner delivers them
    cohorts                            one recipe per dataset: all knobs of difficulty
    subject, scene, grids              one subject on its voxel grid
    releases/, release                 files and folders
    request                            what a release is made from, and its key
"""
