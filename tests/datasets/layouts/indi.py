"""ADHD-200 and ABIDE I as INDI, NITRC-IR and LONI IDA hand them out, with their traps. All ids are made up."""

from __future__ import annotations

from pathlib import Path

from ..releases import image, table

ADHD_HEADER = (
    "ScanDir ID,Site,Gender,Age,Handedness,DX,Secondary Dx ,ADHD Measure,ADHD Index,Inattentive,Hyper/Impulsive,"
    "IQ Measure,Verbal IQ,Performance IQ,Full2 IQ,Full4 IQ,Med Status,"
    "QC_Rest_1,QC_Rest_2,QC_Rest_3,QC_Rest_4,QC_Anatomical_1,QC_Anatomical_2"
)
ABIDE_HEADER = "SITE_ID,SUB_ID,DX_GROUP,DSM_IV_TR,AGE_AT_SCAN,SEX,HANDEDNESS_CATEGORY,FIQ"
IDA_HEADER = '"Image Data ID","Subject","Group","Sex","Age","Visit","Modality","Description","Type","Acq Date","Format"'


def adhd_row(subject: object, diagnosis: object) -> str:
    """Line of a site's table; most of it is missing, in the three ways of the release."""
    return f"{subject},5,0,9.67,-999,{diagnosis},,2,-999,-999,N/A,N/A,,,-999,N/A,1,1,N/A,N/A,N/A,1,N/A"


def abide_row(subject: object, group: object, *, site: str = "NYU", dsm: object = 1, iq: object = -9999) -> str:
    return f"{site},{subject},{group},{dsm},22.7,1,,{iq}"


def bids(site: Path, subject: str, *entities: str, session: str = "ses-1") -> None:
    """T1 images of one subject; ``entities`` between the session and the suffix, one per image."""
    folder = site / f"sub-{subject}" / session
    for entity in entities or ("run-1",):
        parts = (f"sub-{subject}", session, entity, "T1w.nii.gz")
        image(folder / "anat" / "_".join(part for part in parts if part))


def archive(site: Path, subject: str, session: int = 1) -> None:
    """A subject of a site's archive, with the functional series."""
    for name in ("anat_1/mprage", "rest_1/rest"):
        image(site / subject / f"session_{session}" / f"{name}.nii.gz")


def adhd200_bids(root: Path) -> Path:
    """Tree A with every trap."""
    top = root / "RawDataBIDS"
    for number in range(1, 7):
        bids(top / "NYU", f"009000{number}")
    image(top / "NYU/sub-0090001/ses-1/func/sub-0090001_ses-1_task-rest_run-1_bold.nii.gz")
    image(top / "derivatives/fmriprep/sub-0090001/anat/sub-0090001_T1w.nii.gz")
    bids(top / "Peking_3", "9900011", *(f"acq-{n}_run-1" for n in (1, 2, 3, 4, 5, 10)))
    bids(top / "Peking_3", "9900012", "acq-2_run-1")
    bids(top / "WashU", "0090021", "run-2", session="ses-2")
    bids(top / "WashU", "0090022", session="ses-3")
    bids(top / "WashU", "0090022", session="ses-4")
    bids(top / "Brown", "0090031")
    bids(top / "KKI", "9900044")
    table(top / "__MACOSX" / "._participants.tsv", "\0litter")
    table(
        top / "NYU" / "participants.tsv",
        "participant_id\tdx\tnote",
        "90001\tADHD-Combined\tNaïve",
        "90002\tTypically Developing Children\t",
        "90003\tpending\t",
        "90004\tADHD-Inattentive\t",
        "90004\tTypically Developing Children\ttest release",
        "90005\t-999\t",
        "90002\tTypically Developing Children\ttest release",
        encoding="latin-1",
    )
    table(top / "allSubs_testSet_phenotypic_dx.csv", "ID,Site,DX", "90003,5,0", "9900011,3,0")
    rows = [adhd_row(9900011, "pending"), adhd_row(9900012, 3)]
    table(top / "Peking_3" / "Peking_3_TestRelease_phenotypic.csv", ADHD_HEADER, *rows)
    header = "ScanDirID,Study #,Site,DX,Secondary Dx ,QC_S1_Rest_1"
    table(top / "WashU" / "WashU_phenotypic.csv", header, "90021,1,8,0,,1", "90022,1,8,0,,1", "90023,1,8,0,,1")
    table(top / "Brown" / "Brown_TestRelease_phenotypic.csv", ADHD_HEADER, adhd_row(90031, "pending"))
    table(top / "KKI" / "KKI_phenotypic.csv", ADHD_HEADER, adhd_row(9900044, 2))
    rows = [adhd_row(number, "pending") for number in (9900041, 9900042, 9900043)]
    table(top / "KKI" / "KKI_TestRelease_phenotypic.csv", ADHD_HEADER, *rows)
    return top


def adhd200_archives(root: Path) -> Path:
    """Tree B: unpacked archives, which have another folder of the same name in them or not."""
    archive(root / "ADHD200" / "NYU" / "NYU", "0090001")
    archive(root / "ADHD200" / "KKI", "9900044")
    archive(root / "ADHD200" / "WashU", "0090021", session=2)
    archive(root / "ADHD200" / "NYU" / "NYU", "0090007")
    image(root / "athena" / "NYU" / "0090001" / "wssd0090001_session_1_anat.nii.gz")
    table(root / "NYU_phenotypic.csv", ADHD_HEADER, adhd_row(90001, 1), adhd_row(90007, ""))
    table(root / "KKI_phenotypic.csv", ADHD_HEADER, adhd_row(9900044, 3))
    table(root / "WashU_phenotypic.csv", "ScanDirID,Study #,DX", "90021,1,0")
    return root


def adhd200_nitrc(root: Path) -> Path:
    """Tree C: the T1 is called like the functional series."""
    for session, scans in (("Brown_90031_1", ("anat", "rest")), ("Peking_1_9900013_1", ("anat_1", "rest_1"))):
        for scan in scans:
            image(root / session / "scans" / scan / "resources" / "NIfTI" / "files" / "rest.nii.gz")
    table(root / "adhd200_phenotypic.csv", ADHD_HEADER, adhd_row(90031, 1), adhd_row(9900013, 0))
    return root


def abide_phenotype(root: Path) -> Path:
    """The table with its traps: two subjects have no image."""
    return table(
        root / "Phenotypic_V1_0b.csv",
        ABIDE_HEADER,
        abide_row(90952, 1, dsm=0),
        abide_row(90953, 2, dsm=-9999, iq="`"),
        abide_row(90642, 1, site="CMU"),
        abide_row(90643, -9999, site="CMU"),
        abide_row(91232, 1, site="UCLA_1"),
        abide_row(91233, 2, site="UCLA_1"),
    )


ABIDE_SUBJECTS = (("NYU", "0090952"), ("NYU", "0090953"), ("CMU_a", "0090642"), ("CMU_b", "0090643"))
"""Folder, subject. The table's site names are others."""


def abide_archives(root: Path) -> Path:
    """Tree A."""
    for site, subject in ABIDE_SUBJECTS:
        archive(root / "RawData" / site, subject)
    archive(root / "RawData" / "NYU", "0090999")
    image(root / "RawData" / "UCLA_1" / "0091232" / "session_1" / "rest_1" / "rest.nii.gz")
    abide_phenotype(root)
    return root


def abide_bids(root: Path) -> Path:
    """Tree B: no session level."""
    for site, subject in ABIDE_SUBJECTS:
        bids(root / "RawDataBIDS" / site, subject, "", session="")
        image(root / f"RawDataBIDS/{site}/sub-{subject}/func/sub-{subject}_task-rest_run-1_bold.nii.gz")
    abide_phenotype(root)
    # the table of the preprocessed release says the same, with index columns in front
    rows = ["1,1,90952,90952,NYU,NYU_0090952,1,0", "2,2,90953,90953,NYU,no_filename,2,-9999"]
    header = ",Unnamed: 0,SUB_ID,subject,SITE_ID,FILE_ID,DX_GROUP,DSM_IV_TR"
    table(root / "Phenotypic_V1_0b_preprocessed1.csv", header, *rows)
    return root


def abide_nitrc(root: Path) -> Path:
    """Tree C."""
    for session in ("NYU_90952", "NYU_90953", "CMU_90642"):
        for scan, name in (("anat", "mprage"), ("rest", "rest")):
            image(root / session / "scans" / scan / "NIfTI" / f"{name}.nii.gz")
    abide_phenotype(root)
    return root


def abide_ida(root: Path) -> Path:
    """Tree D: one of two has a functional series, too."""
    for number, (subject, description) in enumerate(
        (("90952", "MP-RAGE"), ("90953", "MP-RAGE"), ("90953", "Resting_State_fMRI"))
    ):
        folder = root / "ABIDE" / subject / description / "2000-01-01_00_00_00.0" / f"I99000{number}"
        image(folder / f"ABIDE_{subject}_MRI_{description}_br_raw_20120830171957274_S16483{number}_I99000{number}.nii")
    rows = [
        f'"{image_id}","{subject}","{group}","M","12","1","MRI","MP-RAGE","Original","1/01/2000","NiFTI"'
        for image_id, subject, group in (
            ("990000", "90952", "Autism"),
            ("990001", "90953", "Control"),
            ("990009", "90954", "Control"),
        )
    ]
    table(root / "mine_1_01_2020.csv", IDA_HEADER, *rows)
    return root


def abide_preprocessed(root: Path) -> Path:
    """Tree E."""
    outputs = root / "Outputs"
    image(outputs / "cpac" / "filt_global" / "func_preproc" / "Pitt_0090003_func_preproc.nii.gz")
    image(outputs / "ants" / "anat_thickness" / "CMU_a_0090642_anat_thickness.nii.gz")
    table(outputs / "freesurfer" / "5.1" / "Pitt_0090003" / "mri" / "T1.mgz", "phantom")
    image(root / "loose" / "NYU_0090952_alff.nii.gz")
    abide_phenotype(root)
    return root


def cohort(root: Path, dataset: int, count: int) -> None:
    """Further subjects of a site OHSU without any trap, by turns of each class, with a table of their own."""
    subjects = [f"00908{number:02d}" for number in range(count)]
    for subject in subjects:
        archive(root / "OHSU", subject)
    if dataset == 513:
        rows = [adhd_row(int(subject), n % 2) for n, subject in enumerate(subjects)]
        table(root / "OHSU" / "OHSU_phenotypic.csv", ADHD_HEADER, *rows)
    else:
        rows = [abide_row(int(subject), 1 + n % 2) for n, subject in enumerate(subjects)]
        table(root / "OHSU" / "Phenotypic_V1_0b_OHSU.csv", ABIDE_HEADER, *rows)
