"""users, sessions and tasks"""

import sqlalchemy as sa
from alembic import op

from flaskr.db import Moment

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('users',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('name_key', sa.String(length=192), nullable=False),
    sa.Column('email', sa.String(length=254), nullable=False),
    sa.Column('email_key', sa.String(length=762), nullable=False),
    sa.Column('password_hash', sa.String(length=255), nullable=False),
    sa.Column('created_at', Moment(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_users')),
    sa.UniqueConstraint('email_key', name=op.f('uq_users_email_key')),
    sa.UniqueConstraint('name_key', name=op.f('uq_users_name_key'))
    )
    op.create_table('sessions',
    sa.Column('id', sa.String(length=32), nullable=False),
    sa.Column('user_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('created_at', Moment(), nullable=False),
    sa.Column('expires_at', Moment(), nullable=False),
    sa.Column('ended_at', Moment(), nullable=True),
    sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_sessions_user_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_sessions'))
    )
    with op.batch_alter_table('sessions', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_sessions_expires_at'), ['expires_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_sessions_user_id'), ['user_id'], unique=False)

    op.create_table('tasks',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('user_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('created_at', Moment(), nullable=False),
    sa.Column('name', sa.String(length=255), nullable=False),
    sa.Column('original_ext', sa.String(length=16), nullable=False),
    sa.Column('format', sa.String(length=16), nullable=False),
    sa.Column('options', sa.JSON(), nullable=False),
    sa.Column('state', sa.String(length=12), nullable=False),
    sa.Column('original_route', sa.String(length=320), nullable=False),
    sa.Column('original_bytes', sa.BigInteger(), nullable=False),
    sa.Column('original_crc32c', sa.String(length=8), nullable=False),
    sa.Column('source', sa.JSON(none_as_null=True), nullable=True),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('tries', sa.Integer(), nullable=False),
    sa.Column('sends', sa.Integer(), nullable=False),
    sa.Column('sent_at', Moment(), nullable=True),
    sa.Column('claimed_by', sa.String(length=64), nullable=True),
    sa.Column('lease_until', Moment(), nullable=True),
    sa.Column('started_at', Moment(), nullable=True),
    sa.Column('finished_at', Moment(), nullable=True),
    sa.Column('tidy_at', Moment(), nullable=True),
    sa.Column('converted_route', sa.String(length=320), nullable=False),
    sa.Column('result', sa.JSON(none_as_null=True), nullable=True),
    sa.Column('error_code', sa.String(length=40), nullable=True),
    sa.Column('error_message', sa.String(length=500), nullable=True),
    sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_tasks_user_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_tasks')),
    sqlite_autoincrement=True
    )
    with op.batch_alter_table('tasks', schema=None) as batch_op:
        batch_op.create_index('ix_tasks_started_at', ['started_at'], unique=False)
        batch_op.create_index('ix_tasks_tidy_at', ['tidy_at'], unique=False, postgresql_where=sa.text('tidy_at IS NOT NULL'), sqlite_where=sa.text('tidy_at IS NOT NULL'))
        batch_op.create_index('ix_tasks_user_id_id', ['user_id', 'id'], unique=False)
        batch_op.create_index('ix_tasks_waiting', ['state', 'sent_at'], unique=False, postgresql_where=sa.text("state IN ('RECEIVING', 'UPLOADED', 'PROCESSING')"), sqlite_where=sa.text("state IN ('RECEIVING', 'UPLOADED', 'PROCESSING')"))



def downgrade() -> None:
    with op.batch_alter_table('tasks', schema=None) as batch_op:
        batch_op.drop_index('ix_tasks_waiting', postgresql_where=sa.text("state IN ('RECEIVING', 'UPLOADED', 'PROCESSING')"), sqlite_where=sa.text("state IN ('RECEIVING', 'UPLOADED', 'PROCESSING')"))
        batch_op.drop_index('ix_tasks_user_id_id')
        batch_op.drop_index('ix_tasks_tidy_at', postgresql_where=sa.text('tidy_at IS NOT NULL'), sqlite_where=sa.text('tidy_at IS NOT NULL'))
        batch_op.drop_index('ix_tasks_started_at')

    op.drop_table('tasks')
    with op.batch_alter_table('sessions', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_sessions_user_id'))
        batch_op.drop_index(batch_op.f('ix_sessions_expires_at'))

    op.drop_table('sessions')
    op.drop_table('users')
